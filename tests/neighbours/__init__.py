"""Stand-ins for packs and packages beside us: what they replace and how they answer, and nothing else of them.

Each does its replacing when it is imported, as a custom node pack or in a worker's case.
"""
