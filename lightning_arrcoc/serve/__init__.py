"""A trained model behind an OpenAI-compatible endpoint.

``settings`` says what is allowed, ``questions`` what a request may say, ``pictures`` opens its
images, ``door`` makes a prompt of both, ``admission`` and ``access`` keep out what is too much or
not meant for us. ``endpoints`` answers over HTTP, in the words of ``replies``; ``model_worker`` is
the process with the model, and ``command`` starts it all. Only the last three need LitServe.
"""
