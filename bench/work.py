# What a Python program does: dictionaries, strings, classes, sorting, big integers. Prints a result to check.
import math


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def insert(self, key):
        node = self
        while True:
            side = "left" if key < node.key else "right"
            below = getattr(node, side)
            if below is None:
                setattr(node, side, Node(key))
                return
            node = below


def depth(node):
    return 0 if node is None else 1 + max(depth(node.left), depth(node.right))


words = {}
for i in range(60000):
    word = "w%d" % (i * 7919 % 5003)
    words[word] = words.get(word, 0) + i
tree = Node(5000)
for i in range(5000):
    tree.insert(i * 7919 % 10007)
order = sorted(words, key=lambda word: (words[word] % 101, word))
series = sum(1.0 / (n * n) for n in range(1, 100000))
print(len(words), order[:3], depth(tree), math.floor(series * 1e9), pow(3, 2000, 10**40), len(str(2**5000)))
