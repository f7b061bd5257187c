"""From events to where they last."""
