"""Features of a history that lies in files, at column speed and in bounded memory, by the fold that runs online."""
