"Wrong answers to the exercises of 00 to 04: name -> at least five functions or values, each of which must be refused with a sentence."

WRONG: dict[str, list] = {
    "distances": [
        lambda x, words: ((x - words) ** 2).sum(-1).sqrt(),
        lambda x, words: (x - words).abs().sum(-1),
        lambda x, words: ((x - words) ** 2).mean(-1),
        lambda x, words: -((x - words) ** 2).sum(-1),
        lambda x, words: ((x - words) ** 2).sum(),
        lambda x, words: ((x - words) ** 2).sum(-1, keepdim=True),
        lambda x, words: x @ words.T,
    ],
}
