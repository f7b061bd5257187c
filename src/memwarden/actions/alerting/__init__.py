"""Alerts to people and services: an ordered queue for each receiver, HTTP webhooks, Apprise."""
