"""Everything that touches a socket: connections, TLS, reading replies, and what their failures mean."""
