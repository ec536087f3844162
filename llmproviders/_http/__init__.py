"""Everything that touches a socket: connections, TLS, replies, and what their failures mean."""
