def equations(w): return ""
