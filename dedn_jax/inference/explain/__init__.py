"""Why a class: scores taken apart, attention over the picture, and whether it finds the parts."""
