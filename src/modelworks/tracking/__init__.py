"""The MLflow server behind the platform's keys: a process of its own, started when it is asked for."""
