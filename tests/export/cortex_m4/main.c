/* Runs the network net on the images of images.h and writes, by semihosting, a line per image: the integer logits, the
 * class, and the instructions that it took. QEMU's -icount shift=0 lets one instruction take 1 ns, and SysTick counts at
 * 25 MHz, so it counts in steps of 40 instructions. */
#include <stdint.h>

#include "images.h"
#include "net.h"

#define SYST ((volatile uint32_t *)0xE000E010) /* control, reload, current */

extern int main(void);

static void call(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
}

static void number(int32_t value, char last)
{
    char text[16];
    int at = 15;
    uint32_t rest = value < 0 ? 0u - (uint32_t)value : (uint32_t)value;
    text[at--] = 0;
    text[at--] = last;
    do text[at--] = (char)('0' + rest % 10);
    while (rest /= 10);
    if (value < 0) text[at--] = '-';
    call(0x04, text + at + 1);
}

void reset(void)
{
    main();
    call(0x18, (const void *)0x20026); /* ADP_Stopped_ApplicationExit */
    for (;;) {}
}

static void fault(void)
{
    call(0x04, "fault\n");
    call(0x18, (const void *)0x20024);
    for (;;) {}
}

__attribute__((section(".vectors"), used)) static const void *const vectors[] = {
    (const void *)0x20100000, (const void *)reset, (const void *)fault, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault};

int main(void)
{
    SYST[1] = 0xFFFFFF;
    SYST[0] = 5; /* on, at the processor's clock, without interrupts */
    for (unsigned i = 0; i < sizeof images / sizeof *images; i++) {
        int32_t logits[net_CLASSES];
        SYST[2] = 0;
        while (!SYST[2]) {}
        const uint32_t start = SYST[2];
        const int best = net_classify(images[i], logits);
        const uint32_t ticks = (start - SYST[2]) & 0xFFFFFF;
        for (int n = 0; n < net_CLASSES; n++) number(logits[n], ' ');
        number(best, ' ');
        number((int32_t)(40 * ticks), '\n');
    }
    return 0;
}
