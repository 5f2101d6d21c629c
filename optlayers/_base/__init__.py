"""What every floor stands on: pytrees, the masked loop, statuses and checks. No optimization in here."""
