"""Key shares among people: as text, in groups, and back to an archive whose provider is lost."""
