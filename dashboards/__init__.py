"""The five Grafana dashboards as code: `python -m dashboards` writes their JSON beside this file."""
