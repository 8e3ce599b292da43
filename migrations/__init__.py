"""The history of the tables (Alembic): one transaction a migration, one migrator at a time."""
