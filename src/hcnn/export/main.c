#ifdef HCNN_MAIN
#include <stdio.h>

/* A name on one line, whatever bytes it holds. */
static void net_print(const char *name)
{
    for (; *name; name++) {
        const unsigned char byte = (unsigned char)*name;
        if (byte < 32 || byte == 127) printf("\\x%02x", byte);
        else putchar(byte);
    }
    putchar('\n');
}

int main(void)
{
    static unsigned char bytes[NET_CHANNELS * NET_HEIGHT * NET_WIDTH];
    LOGIT_TYPE logits[NET_CLASSES];
    size_t read;
    while ((read = fread(bytes, 1, sizeof bytes, stdin)) == sizeof bytes) {
        const int best = net_classify(bytes, logits);
        for (int n = 0; n < NET_CLASSES; n++) printf(LOGIT_FORMAT, (LOGIT_PRINTED)logits[n]);
        net_print(net_classes[best]);
    }
    if (read || ferror(stdin)) {
        fprintf(stderr, "expected images of %d bytes; the last one has %d\n", (int)sizeof bytes, (int)read);
        return 1;
    }
    return fflush(stdout) ? 1 : 0;
}
#endif
