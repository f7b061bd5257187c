"""The one place that knows all rooms and passes their values on."""
