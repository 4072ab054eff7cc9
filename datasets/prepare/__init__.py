"""What makes or checks data; training imports nothing from here.

In reading order:

    download.py sources.py   fetch the published archives and unpack them
    verify.py                read every file as training does
    pack.py                  write the packed form of ShapeNetRender
    from_meshes.py           make a data set from a folder of meshes
    views.py render.py       a shape's images: cameras, contact sheet; rasteriser
    meshes.py                read meshes, and sample their surface
    workers.py               jobs on several processes

It may import the readers in `datasets` and `utils.parallel`, but not `models`.
"""
