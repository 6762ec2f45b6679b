"""From raw reviews to the tables and figures of the XRec reproducibility study."""
