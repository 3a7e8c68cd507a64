"""The instrument: streaming statistics of hidden neurons, their health, and how sure that is."""
