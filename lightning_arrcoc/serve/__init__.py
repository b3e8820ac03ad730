"""A trained model behind an OpenAI-compatible endpoint.

``settings`` says what is allowed, ``questions`` what a request may say, ``pictures`` opens its
images, ``door`` makes a prompt of both; ``body``, ``admission`` and ``access`` keep out what is too
much or not meant for us. ``endpoints`` answers over HTTP, in the words of ``replies``, and tells
``metrics``. ``model_worker`` is the process with the model; what goes there and back stands in
``wire``. ``command`` starts it all.
"""
