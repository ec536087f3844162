"""The tests on the wheel, outside of the checkout, with the oldest and the newest dependencies."""
