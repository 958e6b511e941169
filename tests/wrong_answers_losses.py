"Wrong answers to the exercises of 05 to 08: name -> at least five functions or values, each of which must be refused with a sentence."

WRONG: dict[str, list] = {}
