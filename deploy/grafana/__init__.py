"""Grafana: dashboards made from data, and how it finds them."""
