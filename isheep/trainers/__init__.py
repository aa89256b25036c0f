"""Trainers: one module per library that fine-tunes a model. isheep/backends.py has the list of their names.

A trainer module has three functions:

- `train(start_model, training_file, chat_template, training, seed, output_dir, machine)` writes a LoRA adapter;
- `check(recipe)` raises UserError if this machine can't train as the recipe says;
- `conflicts(recipe)` yields (key path, message) for settings of the recipe that exclude each other.
"""
