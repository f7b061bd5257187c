"""The pytest plugin: ``-p memwarden.pytest_plugin``, on the command line or in ``addopts``."""

from memwarden.guards.pytest_hooks import pytest_addoption as pytest_addoption
from memwarden.guards.pytest_hooks import pytest_configure as pytest_configure
