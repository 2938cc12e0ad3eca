"""Key shares held by people: as text, in groups, and for recovering an archive whose provider is lost."""
