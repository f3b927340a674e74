"""
Random places full of textured boxes and planes, seen by a moving camera.

What a network learns from them is to match: the textures say nothing of the depth, the motion
does. ``take`` draws a place, a camera and its path; ``surfaces`` renders; ``render.py`` of the
package writes bags.

Conventions are those of ``synthetic``: the world's x points ahead, y left and z up; the camera's
x right, y down and z ahead; pixel centres stand at integers; depth is z in metres.
"""
