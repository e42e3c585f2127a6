"""The report of `hcnn explore` and the live page of `hcnn serve`.

Both draw the same views with the same script: `views` computes them, `report` puts some of them into one file,
`server` answers for any image, depth and shift. What the browser runs lies in ``static``, without a build step.
"""
