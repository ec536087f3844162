"""Text, tables and pictures for people; knows no other part of the package."""
