"""The engine on one machine: processes, files and a lock."""
