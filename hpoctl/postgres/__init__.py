"""A private PostgreSQL in one folder: its files, its settings, its process. Knows no study."""
