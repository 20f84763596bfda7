"""The prompted foundation model and the decoder that maps its masks to classes."""

from tsic.teacher.average import AveragedTeacher
from tsic.teacher.held import hold_frozen
from tsic.teacher.teacher import Teacher, TeacherOutput, build_teacher

__all__ = ["AveragedTeacher", "Teacher", "TeacherOutput", "build_teacher", "hold_frozen"]
