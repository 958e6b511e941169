"Wrong answers to the exercises of 09 to 12 and of the tutorials: name -> at least five functions or values, each of which must be refused."

WRONG: dict[str, list] = {}
