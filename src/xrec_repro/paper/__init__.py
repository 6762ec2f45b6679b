"""Tables, figures and claims of the paper, made from the files of other stages."""
