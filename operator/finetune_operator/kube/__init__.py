"""The engine on a cluster, and all talk with an API server."""
