"""How a scientific record becomes batches: spec, store, windows, statistics, packing, loader, module.

Nothing is imported here, so that ``workbench.data.store`` and its neighbours stay free of torch.
"""
