"""The prompted foundation model and the decoder that maps its masks to classes."""

from tsic.teacher.teacher import Teacher, TeacherOutput, build_teacher

__all__ = ["Teacher", "TeacherOutput", "build_teacher"]
