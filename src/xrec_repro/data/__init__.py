"""From raw reviews or a release to the tables that the other stages read."""
