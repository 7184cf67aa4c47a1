"""Bodies of requests and responses, shared by server and client. Pure."""
