"""Train a small GPT and generate from it: `python -m examples.language_model --help`.

The program is written for a mesh from the start; one device is the mesh 1 × 1.

    python -m examples.language_model                            # Python's help topics
    python -m examples.language_model --text book.txt --alpha 1.5 --checkpoints runs/book
    python -m examples.language_model --text book.txt --alpha 1.5 --checkpoints runs/book --resume
    python -m examples.language_model --mesh 2x4 --steps 50      # data × model, on eight devices
    python -m examples.language_model --checkpoints runs/book --generate "Once" --temperature 0.8

For several processes run the same command for each, with its index and the address of process 0.

    LM="python -m examples.language_model --mesh 2x4 --coordinator 127.0.0.1:9000 --processes 2"
    $LM --process 0 & $LM --process 1

It needs `pip install jsoftmax[examples]`. From top to bottom:

| file | idea |
|---|---|
| `__main__` | the command line |
| `devices` | forced host devices, several processes |
| `config` | the settings and their checks |
| `tokens` | text ↔ tokens: the frequent words, and bytes for the rest |
| `data` | the grain pipeline: documents cut into windows, shuffled, split over processes |
| `model` | GPT in Flax NNX: RoPE, grouped heads, α-entmax attention, tied `LinearSoftmax` |
| `peer` | the same model on `jax.nn` and optax alone |
| `train` | state, sharding and the training step |
| `checkpoints` | orbax: save, find, restore on any mesh |
| `run` | the loop, its progress line and its table |
| `generate` | prefill, then one token at a time from the cache |
"""
