"""The texts of a server's configuration files; see docs/how-to/private-database.md."""

from __future__ import annotations

from hpoctl.postgres.folder import NAME, Folder

ADMIN = "hpoctl_admin"  # the superuser: has no password, comes in by the socket only
_MAX_CONNECTIONS = 500


def server_settings(folder: Folder, port: int) -> str:
    """postgresql.conf: durable, small, quiet."""
    tls = folder.certificate.exists()
    socket = str(folder.path).replace('"', '""')  # one of a list, so in quotes of its own
    settings = {
        "listen_addresses": "*",
        "port": str(port),
        "unix_socket_directories": f'"{socket}"',
        "unix_socket_permissions": "0700",
        "max_connections": str(_MAX_CONNECTIONS),
        "password_encryption": "scram-sha-256",
        "ssl": "on" if tls else "off",
        **({"ssl_cert_file": str(folder.certificate)} if tls else {}),
        **({"ssl_key_file": str(folder.key)} if tls else {}),
        # what is committed is on the disk
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        # a guest on a login node
        "shared_buffers": "64MB",
        "max_wal_size": "256MB",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "max_logical_replication_workers": "0",
        "max_parallel_workers_per_gather": "0",
        "autovacuum_max_workers": "2",
        "jit": "off",
        # a node that died holds no connection, and no lock, for longer than two minutes
        "tcp_keepalives_idle": "60",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "6",
        # a statement may hold what is nobody else's: the log has errors, and no statement
        "log_statement": "none",
        "log_min_error_statement": "panic",
        "log_min_duration_statement": "-1",
        "log_error_verbosity": "terse",
        "log_connections": "off",
        "log_checkpoints": "off",
        "log_line_prefix": "%m [%p] ",
    }
    lines = [f"{name} = {_quoted(value)}" for name, value in settings.items()]
    head = "# Written by each 'hpoctl db up': settings of your own go to the file named last."
    tail = f"include_if_exists = {_quoted(str(folder.local_settings))}"
    return "\n".join([head, *lines, tail, ""])


def access_rules(*, tls: bool) -> str:
    """pg_hba.conf: one role, one database, always a password; the owner as admin by the socket."""
    return "\n".join(
        [
            "# Written by each 'hpoctl db up'.",
            f"local  all  {ADMIN}  peer map=owner",
            f"local  {NAME}  {NAME}  scram-sha-256",
            f"{'hostssl' if tls else 'host'}  {NAME}  {NAME}  all  scram-sha-256",
            "",
        ]
    )


def owner_map(user: str) -> str:
    """pg_ident.conf: who of this machine's users is the admin."""
    return f"# Written by each 'hpoctl db up'.\nowner  \"{user}\"  {ADMIN}\n"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
