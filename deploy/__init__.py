"""Everything on one machine: Kafka, PostgreSQL, the processes and their supervisor, and a small domain to try it with."""
