"""What guards cost the code that they stand around, and how right they are."""
