"""The features of Bananas that ship as plugins, one module or folder each."""
