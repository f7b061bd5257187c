"""Settings: the options, their sources, and the settings file. Other packages receive plain values.

An argument of a program wins over a flag, a flag over the environment, the environment over the settings
file, the file over the default.
"""

from memwarden.settings.files import Fault, SettingsFile, config_directory, find, read
from memwarden.settings.json_schema import schema
from memwarden.settings.options import OPTIONS, RULE_KEYS, Option
from memwarden.settings.precedence import Settings, Source, environment_faults, resolve
from memwarden.settings.reload import SettingsReloader

__all__ = [
    "OPTIONS",
    "RULE_KEYS",
    "Fault",
    "Option",
    "Settings",
    "SettingsFile",
    "SettingsReloader",
    "Source",
    "config_directory",
    "environment_faults",
    "find",
    "read",
    "resolve",
    "schema",
]
