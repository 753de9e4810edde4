"""The groups of checks: functions that yield their checks one by one; ``engine.GROUPS`` names them."""
