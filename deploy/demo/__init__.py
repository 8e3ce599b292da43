"""The demo domains: ready-made questions, answers and quizzes that a new installation learns from."""
