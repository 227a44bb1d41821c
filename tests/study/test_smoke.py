import time
def test_pg(postgresql_url): print(postgresql_url)
def test_my(mariadb_url): print(mariadb_url)
def test_sl(slurm): print(slurm.ask("sinfo"))
