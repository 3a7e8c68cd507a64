"""The instrument: streaming statistics of hidden neurons, their health, and how sure that is."""

from minigpt.neurons.health import LayerHealth, model_health
from minigpt.neurons.probe import LayerStatistics, NeuronProbe

__all__ = ["LayerHealth", "LayerStatistics", "NeuronProbe", "model_health"]
