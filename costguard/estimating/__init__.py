"""What a task may cost before it is sent: text, media and their lengths -> tokens and USD, expected and worst case."""
