"""The interface of subjects, backends as subjects, and adapters for other people's models, each with its framework."""
