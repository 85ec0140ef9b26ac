"""Other people's interfaces over `Messages`: for code that was written for something else and shall stay as it is."""
