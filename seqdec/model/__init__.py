"""Tokens in, distributions out: a Hugging Face decoder with a codec for each variable around it.

    values -> codecs embed -> tokens [B, L, D] -> backbone -> states [B, L, D] -> codecs predict -> distributions

It holds all parameters and knows how to keep them (`folder`). It neither trains nor acts, and never sees a data set.
"""
